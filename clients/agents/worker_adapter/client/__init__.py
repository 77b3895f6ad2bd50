"""What runs on the other side, with another Python and other packages: nothing here imports anything of Omium."""
