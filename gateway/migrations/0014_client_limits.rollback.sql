DROP TABLE client_limits;
