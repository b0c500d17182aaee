"""External factors: where they come from, and what is believed of each source.

`recorded` reads recordings; `keeper` keeps a source's last good value, its age and its status.
"""
