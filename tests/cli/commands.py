"""Flags of small commands, and what a refusal looks like."""

SMALL = ["--train-limit", "64", "--test-limit", "16", "--time-steps", "2", "--epochs", "1", "--train-steps", "1"]
QUIET = ["--accelerator", "cpu", "--no-progress"]
PLAIN = [*QUIET, "--doubts", "0"]


def refused(result, *texts, code=1):
    """The command was refused with exactly one sentence on stderr that holds these texts."""
    exit_code, _, err = result
    assert exit_code == code, err
    assert err.count("\n") == 1
    assert err.startswith("robustspike: ")
    assert "Traceback" not in err
    for text in texts:
        assert text in err
