"""Going back, branching off and playing again: what each would do, and how it is done."""
