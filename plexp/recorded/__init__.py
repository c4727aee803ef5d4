"""What can be done with a recorded run: restore, evaluate, film, export, reproduce, re-simulate."""
