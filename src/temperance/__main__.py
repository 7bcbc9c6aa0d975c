"""`python -m temperance`, and with it `torchrun -m temperance` and `accelerate launch -m temperance`."""

from temperance.cli import main

if __name__ == "__main__":
    main()
