"""`python -m vicuna_lit.chat`."""

from vicuna_lit.cli.chat import main

if __name__ == "__main__":
    main()
