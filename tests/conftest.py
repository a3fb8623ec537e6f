"""What all tests rely on."""

import signal


def pytest_configure():
    # Started in the background (nohup make test &, some CI systems), this process and all that it starts would ignore
    # SIGINT; Python then installs no handler, and what tests interrupt would go on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
