"""How useful released rows are: the two tables of scikit-learn, by ε, beside their originals."""
