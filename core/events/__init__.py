"""What happened: rows of app.events, written by SQL in the transaction of what happened.

Records and replay source, kept 90 days. No reader follows them by a cursor; what must not be missed
is written in the transaction of the event.
"""
