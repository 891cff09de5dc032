"""Job templates: the YAML files that make services, and the way from a job to its run spec.

    marks · texts · quantities   YAML with its lines; a client's text; "4GiB", "0.5", "12h"
    parameters                   one typed parameter: what it accepts, and a client's text read as it
    notebook · own               the parameters that a notebook itself names
    definition · catalog         what a template file says; all of them, checked
    schema · given               a template as the server uses it; a job's parameters, sorted and read
    staging · render             which files a job brings; template + job -> run spec

Everything here is pure but for `catalog.load`, which reads the template files.
"""
