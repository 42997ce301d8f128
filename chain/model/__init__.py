"""A model of the chain in plain Python: the contracts' rules, and blocks without a virtual machine.

It stands for a chain in the simulator, and says in few words what the contracts do: property tests drive both and
compare. Amounts and addresses are what they are on chain; signatures are checked by the scheme in force, so that a
simulation may bring its own.
"""
