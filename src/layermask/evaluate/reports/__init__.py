"""What experiments found: from the rows alone to words, tables and a figure, one file per experiment."""
