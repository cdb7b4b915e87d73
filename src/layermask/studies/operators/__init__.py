"""How far each removal can be trusted."""
