"""`python -m vicuna_lit.estimate`."""

from vicuna_lit.cli.estimate import main

if __name__ == "__main__":
    main()
