"""Bringing a cluster up: network, keys, control plane, registry, nodes, name server, each awaited."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster import control_groups, images, keys
from tests.cluster.cluster import Cluster
from tests.cluster.layout import REGISTRY, REGISTRY_PASSWORD, REGISTRY_USER
from tests.cluster.node import Failed, Node, run
from tests.cluster.programs import CNI, say
from tests.waiting import until

MANIFESTS = Path(__file__).parent / "manifests"


class BringUp:
    """One bring-up of one cluster."""

    def __init__(self, cluster: Cluster, until_end_of: int | None = None) -> None:
        self.cluster = cluster
        self.layout = cluster.layout
        self.programs = cluster.programs
        self._until_end_of = until_end_of
        self._began = time.monotonic()

    def _done(self, what: str) -> None:
        say(f"{time.monotonic() - self._began:5.1f} s  {what}")

    def everything(self, nodes: int) -> None:
        """A whole cluster with that many nodes."""
        archives = images.make_basic_images(self.programs)
        self.layout.logs.mkdir(parents=True)
        self.layout.state.chmod(0o755)
        keys.make(self.layout)
        first = self.node(1)
        self._control_plane(first)
        self._registry(first)
        self._runtime(first, archives)
        until(lambda: self.cluster.answers("get", "--raw=/readyz"), "the API server answers")
        self._done("the API server answers")
        self._controllers(first)
        self._kubelet(first)
        for number in range(2, nodes + 1):
            self.join(number)
        self._await_node(first)
        until(
            lambda: self.cluster.answers("-n", "default", "get", "serviceaccount", "default"),
            "pods can be made",
        )
        manifest = (MANIFESTS / "dns.yaml").read_text().replace("DNS_IP", self.layout.dns_ip)
        self.cluster.kubectl("apply", "-f", "-", text=manifest)
        self.cluster.kubectl(
            "-n",
            "kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            "--timeout=100s",
            "--request-timeout=0",
        )
        self._done("names of services resolve")

    def join(self, number: int) -> Node:
        """Add a node to a cluster that is up."""
        node = self.node(number)
        self._runtime(node, images.make_basic_images(self.programs))
        self._kubelet(node)
        self._await_node(node)
        return node

    # ---- the network -------------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Start a node's first process and put it on the network; nothing runs there yet."""
        node = Node(self.layout, number)
        if number == 1:
            node.begin(self._until_end_of)
        else:
            # A cluster does not outlive its first node.
            switch = Node(self.layout, 1).first_process()
            assert switch is not None
            node.begin(switch.pid)
        first = node.first_process()
        assert first is not None
        control_groups.make(f"{self.layout.prefix}-{node.name}")
        node.inside("ip", "link", "set", "lo", "up")
        if number == 1:
            self._switch(node, first.pid)
        else:
            self._plug_in(node, first.pid)
        # The API server itself asks services (webhooks): they need a route, though none is ever taken.
        node.inside("ip", "route", "replace", self.layout.service_net, "dev", "eth0")
        for other in self.layout.nodes():
            if other != number and Node(self.layout, other).lives():
                peer = Node(self.layout, other)
                node.inside("ip", "route", "replace", self.layout.pod_net(other), "via", peer.ip)
                peer.inside("ip", "route", "replace", self.layout.pod_net(number), "via", node.ip)
        run("ip", "route", "replace", self.layout.pod_net(number), "via", node.ip)
        return node

    def _switch(self, node: Node, pid: int) -> None:
        """Make node 1's card a bridge, where this machine and other nodes are plugged in; no way leads on."""
        cable = f"{self.layout.prefix}-h"
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "to-host", "netns", str(pid))
        run("ip", "address", "add", f"{self.layout.host_ip}/24", "dev", cable)
        run("ip", "link", "set", cable, "up")
        node.inside("ip", "link", "add", "eth0", "type", "bridge", "forward_delay", "0")
        node.inside("ip", "link", "set", "to-host", "master", "eth0", "up")
        node.inside("ip", "address", "add", f"{node.ip}/24", "dev", "eth0")
        node.inside("ip", "link", "set", "eth0", "up")
        run("ip", "route", "replace", self.layout.service_net, "via", node.ip)
        # What is not there is refused at once, and never sent out by this machine's default route.
        run("ip", "route", "replace", "unreachable", self.layout.everything, "metric", "4000")

    def _plug_in(self, node: Node, pid: int) -> None:
        switch = Node(self.layout, 1).first_process()
        assert switch is not None
        plug = f"to-{node.name}"
        # Made in the new node's network from outside, as the nodes do not see each other's processes.
        words = ("ip", "link", "add", "eth0", "type", "veth", "peer", "name", plug, "netns", str(switch.pid))
        run("nsenter", f"--target={pid}", "--net", *words)
        Node(self.layout, 1).inside("ip", "link", "set", plug, "master", "eth0", "up")
        node.inside("ip", "address", "add", f"{node.ip}/24", "dev", "eth0")
        node.inside("ip", "link", "set", "eth0", "up")

    # ---- the control plane -------------------------------------------------------------------------------

    def _control_plane(self, node: Node) -> None:
        pki = keys.directory(self.layout)
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        node.start(
            "etcd",
            *(
                self.programs / "etcd",
                "--name=node",
                f"--data-dir={self.layout.state}/etcd",
                "--unsafe-no-fsync",
            ),
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            *(f"--initial-cluster=node={peer}", "--log-level=warn"),
        )
        node.start(
            "kube-apiserver",
            *(self.programs / "kube-apiserver", f"--etcd-servers={client}"),
            *(f"--bind-address={node.ip}", f"--advertise-address={node.ip}", "--secure-port=6443"),
            *(f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key"),
            *(
                f"--client-ca-file={pki}/ca.crt",
                f"--token-auth-file={pki}/tokens.csv",
                "--anonymous-auth=false",
            ),
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            f"--kubelet-client-certificate={pki}/kubelet-client.crt",
            f"--kubelet-client-key={pki}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki}/accounts.pub",
            f"--service-account-signing-key-file={pki}/accounts.key",
            f"--service-cluster-ip-range={self.layout.service_net}",
        )

    def _controllers(self, node: Node) -> None:
        pki = keys.directory(self.layout)
        # Asking faster than by default: thousands of pods that do not exist take seconds.
        common = (
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            "--kube-api-qps=300",
            "--kube-api-burst=600",
        )
        node.start(
            "kube-controller-manager",
            *(self.programs / "kube-controller-manager", *common, "--use-service-account-credentials"),
            f"--kubeconfig={self.layout.state}/controller-manager.kubeconfig",
            f"--service-account-private-key-file={pki}/accounts.key",
            f"--root-ca-file={pki}/ca.crt",
            # Half of the usual, and the kubelets report four times as often: a lost node is noticed in 20 s.
            *("--node-monitor-grace-period=20s", "--node-monitor-period=1s"),
        )
        node.start(
            "kube-scheduler",
            *(
                self.programs / "kube-scheduler",
                *common,
                f"--kubeconfig={self.layout.state}/scheduler.kubeconfig",
            ),
        )

    # ---- the registry ------------------------------------------------------------------------------------

    def _registry(self, node: Node) -> None:
        """Debian's registry, with login and a certificate of the cluster's authority."""
        directory = self.layout.state / "registry"
        directory.mkdir()
        (directory / "users").write_text(run("htpasswd", "-Bbn", REGISTRY_USER, REGISTRY_PASSWORD))
        pki = keys.directory(self.layout)
        config = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": f"{directory}/data"}, "delete": {"enabled": True}},
            "auth": {"htpasswd": {"realm": "test", "path": f"{directory}/users"}},
            "http": {
                "addr": f"{node.ip}:5000",
                "tls": {"certificate": f"{pki}/registry.crt", "key": f"{pki}/registry.key"},
            },
        }
        (directory / "config.yaml").write_text(json.dumps(config))
        node.start("registry", "docker-registry", "serve", directory / "config.yaml")

    # ---- what makes a node -------------------------------------------------------------------------------

    def _runtime(self, node: Node, archives: Sequence[Path]) -> None:
        """Start containerd and give it the basic images."""
        own = node.directory
        (own / "cni").mkdir()
        hosts = own / "registries" / REGISTRY
        hosts.mkdir(parents=True)
        authority = keys.directory(self.layout) / "ca.crt"
        (hosts / "hosts.toml").write_text(
            f'server = "https://{self.layout.node_ip(1)}:5000"\nca = "{authority}"\n'
            f'[host."https://{self.layout.node_ip(1)}:5000"]\n  ca = "{authority}"\n'
        )
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/ipam",
                "ranges": [[{"subnet": self.layout.pod_net(node.number)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        chain = {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}
        (own / "cni" / "10-pods.conflist").write_text(json.dumps(chain))
        (own / "containerd.toml").write_text(CONTAINERD.format(own=own, cni=CNI))
        node.start("containerd", "containerd", "--config", own / "containerd.toml")
        until(lambda: self._containerd_answers(node), "containerd answers")
        for archive in archives:
            node.inside(
                "ctr", "--address", node.containerd, "--namespace=k8s.io", "images", "import", archive
            )
        self._done(f"{node.name} has its images")

    def _containerd_answers(self, node: Node) -> bool:
        with suppress(Failed):
            node.inside("ctr", "--address", node.containerd, "version")
            return True
        return False

    def _kubelet(self, node: Node) -> None:
        """Start kubelet and kube-proxy."""
        own = node.directory
        (own / "resolv.conf").touch()
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.ip,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{keys.directory(self.layout)}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{node.containerd}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.layout.prefix}-{node.name}",
            "nodeLeaseDurationSeconds": 10,
            "failCgroupV1": False,
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "podLogsDir": "/var/log/pods",
            "volumePluginDir": f"{own}/volume-plugins",
            "clusterDNS": [self.layout.dns_ip],
            "clusterDomain": "cluster.local",
            "resolvConf": f"{own}/resolv.conf",
            # A fuller disk than a real node's is no reason to evict pods, nor to throw away images that
            # came from an archive and cannot be pulled again.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "100Mi",
                "imagefs.available": "100Mi",
            },
        }
        (own / "kubelet.yaml").write_text(json.dumps(kubelet))
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{self.layout.state}/proxy.kubeconfig"},
            "mode": "nftables",
            "clusterCIDR": self.layout.all_pods,
            "hostnameOverride": node.name,
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            # These would be set for the whole machine.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (own / "proxy.yaml").write_text(json.dumps(proxy))
        node.start(
            "kubelet",
            *(self.programs / "kubelet", f"--config={own}/kubelet.yaml", f"--root-dir={own}/kubelet"),
            f"--kubeconfig={self.layout.state}/{node.name}.kubeconfig",
            *(f"--hostname-override={node.name}", f"--node-ip={node.ip}"),
        )
        node.start("kube-proxy", self.programs / "kube-proxy", f"--config={own}/proxy.yaml")

    def _await_node(self, node: Node) -> None:
        ready = 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'

        def is_ready() -> bool:
            with suppress(Failed):
                return self.cluster.kubectl("get", "node", node.name, "-o", ready) == "True"
            return False

        until(is_ready, f"{node.name} is ready")
        self._done(f"{node.name} is ready")


CONTAINERD = """\
version = 2
# In memory: unmounting a root on disk would wait until the machine has written all that anybody wrote.
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
                    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "{own}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  netns_mounts_under_state_dir = true
  # Root in a sandbox may lack CAP_SYS_RESOURCE and then cannot lower an OOM score; runc would start no pod.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{own}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{own}/registries"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""
