"""For all tests: nothing is written to the user's own data folder, also not by processes that tests start."""

import os
import tempfile

os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="qwq-tests-")
