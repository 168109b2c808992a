-- The server's clock in milliseconds.
return num(NOW)
