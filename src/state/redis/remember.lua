-- Stores a submission. ARGV: its fields, each after its name.
remember(named(ARGV))
