"""Files: every artefact of a run is written whole or not at all, says what it was made from, and is refused
if in doubt.
"""
