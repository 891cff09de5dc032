"""Job templates: the YAML files that make services, and the way from a job to its run spec.

    marks · quantities      reading YAML with its lines; "4GiB", "0.5", "12h"
    parameters              one typed parameter: what it accepts, and a client's text read as it
    notebook · own          the parameters that a notebook itself names
    schema · catalog        a template; all templates of a server
    staging · render        which files a job needs; template + job -> run spec

Everything here is pure but for `catalog.load`, which reads the template files.
"""
