"""`kindling replay`: rows of a run are generated again, to see how many texts come out the same.

replay.py      the verb: draws rows, generates them again, compares
drawn_rows.py  the draw: accepted rows that the run's job generated, and what is to be sent for them
"""
