"""The generalised Krasnoselskii-Mann (GKM) scheme and its numerical operators."""
