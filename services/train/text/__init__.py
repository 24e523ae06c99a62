"""Text about proteins: UniProt flat files, tables, the UniProt REST interface, and what is taken out."""
