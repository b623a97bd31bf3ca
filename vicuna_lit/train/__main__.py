"""`python -m vicuna_lit.train`."""

from vicuna_lit.cli.train import main

if __name__ == "__main__":
    main()
