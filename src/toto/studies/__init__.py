"""Questions asked of many small models at once, such as which learning rate fits every width."""
