"""Write the table in docs/metrics.md from what the code counts: ``python -m scripts.describe_metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from uws_server import metrics

PATH = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN = "<!-- The table: python -m scripts.describe_metrics -->\n"


def document(text: str) -> str:
    """The page with the table as it should be."""
    before, mark, rest = text.partition(BEGIN)
    _, gap, after = rest.partition("\n\n")
    return before + mark + "".join(_table()).removesuffix("\n") + gap + after


def _table() -> Iterator[str]:
    yield "| Name | Kind | Labels | Meaning |\n|---|---|---|---|\n"
    for name, one in sorted(counted()):
        (family,) = one.describe()
        labels = ", ".join(one._labelnames)  # noqa: SLF001  there is no other way to them
        yield f"| `{name}` | {family.type} | {labels} | {family.documentation} |\n"


def counted() -> Iterator[tuple[str, MetricWrapperBase]]:
    """Every metric of the code, by the name that Prometheus knows."""
    for one in vars(metrics).values():
        if isinstance(one, MetricWrapperBase):
            (family,) = one.describe()
            yield f"{family.name}_total" if family.type == "counter" else family.name, one


if __name__ == "__main__":
    PATH.write_text(document(PATH.read_text(encoding="utf-8")), encoding="utf-8")
