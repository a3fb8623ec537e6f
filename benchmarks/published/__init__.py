"""Train errors of CP fits beside those that were published, as far as the steps go."""
