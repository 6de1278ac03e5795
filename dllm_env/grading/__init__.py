"""Whether a response is right: answers, programs, and the limits under which both are judged."""
