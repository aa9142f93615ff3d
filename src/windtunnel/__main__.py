"""`python -m windtunnel`: the command line where a launcher such as torchrun wants a module."""

from windtunnel.cli import main

if __name__ == "__main__":
    main()
