"""Job templates: the YAML files that make services, and the way from a job's parameters to its run spec.

    stars.yaml ── yaml_lines ──▶ values and their lines ── schema ──▶ Definition ── cross_checks ──▶ Template
    request ──▶ job's parameters ── job_parameters ──▶ checked values ── render ──▶ run spec

    catalog · template_file      all templates of a server; one file, with every mistake in it by line
    schema · parameter_type      what a file may say; how it declares a parameter, and what that accepts
    strict · file_words          how these models are read, and their refusals in words of the file
    cross_checks · reserved      what can be wrong between its parts; names that are taken
    template · description       a loaded template and what a job may use; what others are told of it
    job_parameters               sorts a job's parameters and reads each: `reading` those that the template
                                 declares, `input_files` its files, `notebook_values` a notebook's own
    notebook                     a notebook's JSON: `notebook_parameters` reads its parameters cell, and
                                 `notebook_excerpt` is a process that cuts the cell out of a large one
    amounts · client_text        "4GiB", "0.5", "12h"; texts of clients, shown in a sentence or read as JSON

Everything here is pure but for `template_file`, which reads a template and the notebook beside it.
"""
