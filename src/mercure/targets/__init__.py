"""How a job leaves: one file for each kind of target, each with send() and test()."""
