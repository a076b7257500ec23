"""Our speed against a plain implementation, in one process: ``python -m benchmarks [--quick] [--out FILE]``."""
