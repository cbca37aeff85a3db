"""Card transactions to fraud scores."""
