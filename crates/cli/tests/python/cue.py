"""How a script asks the test that runs it for a restart of the broker."""


def restart_broker():
    """True once the broker was restarted, False where that is impossible."""
    print("CUE restart", flush=True)
    return input() == "restarted"
