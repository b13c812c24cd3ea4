"""How systems stand what is done to pictures: studies beyond clean accuracy (survey §7)."""
