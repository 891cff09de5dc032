"""The user's process of a notebook job: papermill, with an outcome that is true whatever happens.

    __main__ · end               arguments, the order of things; exit codes, failures, signals
    inputs · kernels · session   the notebook and its parameters; which kernel; its process and sockets
    prepare                      the notebook with papermill's metadata and the cell of injected parameters
    client · execution           runs the cells; keeps their states, saves the file, tells the progress
    outputs · rendering          bounds on what a cell leaves in the file; the page for people

What `__main__` imports at its top has no library of Jupyter's: the kernel is launched first.
"""
