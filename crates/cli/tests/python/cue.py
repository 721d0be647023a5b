"""How a script asks the test that runs it for a new start of the broker.

The answer comes before the deed: the script sees what a client of a broker
that goes away sees, and must try until the broker is there again.
"""


def restart_broker():
    """Has the broker stopped and started; false where that is impossible."""
    return _ask("restart")


def kill_broker():
    """Has the broker killed and started; false where that is impossible."""
    return _ask("kill")


def _ask(what):
    print("CUE", what, flush=True)
    return input() == "coming"
