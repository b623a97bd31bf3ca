"""The evaluate job: questions, answers, judges, an honest table."""
