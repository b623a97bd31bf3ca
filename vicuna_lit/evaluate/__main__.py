"""`python -m vicuna_lit.evaluate`."""

from vicuna_lit.cli.evaluate import main

if __name__ == "__main__":
    main()
