"""For all tests: nothing is written to the user's own data folder, also not by processes that tests
start.
"""

import atexit
import os
import shutil
import tempfile

os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="qwq-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_DATA_HOME"], ignore_errors=True)
