"""What every Store does, whatever the database."""
