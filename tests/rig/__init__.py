"""Real servers, real faults and real child processes for the tests: see README.md beside this file."""
