"""Our attacks against other libraries': ``make oracles``."""
