"""``python -m robustspike.cli``, as ``torchrun -m`` starts it."""

from robustspike.cli import main

if __name__ == "__main__":
    main()
