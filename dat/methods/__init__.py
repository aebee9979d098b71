"""The training methods, one paper each. A new one: a file, a line here, a recipe, a row in `tests/test_methods.py`."""

from dat.methods.at import AT
from dat.methods.dat import DAT
from dat.methods.random_codes import RandomCodes
from dat.methods.standard import Standard

METHODS = {"standard": Standard, "at": AT, "random-codes": RandomCodes, "dat": DAT}
