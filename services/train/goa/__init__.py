"""Gene Ontology annotations (GOA): read a GAF file, filter it, propagate it over the graph."""
