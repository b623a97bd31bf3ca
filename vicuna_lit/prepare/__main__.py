"""`python -m vicuna_lit.prepare`."""

from vicuna_lit.cli.prepare import main

if __name__ == "__main__":
    main()
