"""What `omium.yaml` may say, a room each: the form of a key and the way from it to what the room works with."""
