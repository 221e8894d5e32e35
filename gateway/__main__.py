"""`python -m gateway`: the `oqim` command line, for a supervisor that names its Python."""

from gateway.cli import main

if __name__ == "__main__":
    main()
