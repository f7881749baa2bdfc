"""Tasks: what is asked, how it is put to a model, and how an answer is judged and rewarded."""
