"""What arguments may be: for each kind one function `kind(name, value)`.

It returns the value in one form, or raises `InputError` (`WrongType` for another type), with the name of the
argument, its value and what to give. Every public constructor and call checks its arguments here, mostly by
`checked` and `check_fields`. Import from the modules; those without tensors do not load torch.
"""
