"""`python -m vicuna_lit.compare`."""

from vicuna_lit.cli.compare import main

if __name__ == "__main__":
    main()
