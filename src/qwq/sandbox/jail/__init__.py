"""What runs inside a slot: standard library only, imported without the rest of the package.

`zygote` is started as a program of its own; `codec` is also used outside, by the parent.
"""
