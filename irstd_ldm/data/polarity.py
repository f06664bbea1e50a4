"""Which end of the gray values is hot. The command line reads this before anything is loaded."""

WHITE_HOT, BLACK_HOT = POLARITIES = ("white-hot", "black-hot")
